// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.content;

import android.content.pm.ApplicationInfo;
import android.content.res.AssetManager;
import java.io.File;

public class ContextWrapper extends Context {
    @Override
    public AssetManager getAssets() { throw new RuntimeException("stub"); }

    @Override
    public ContentResolver getContentResolver() { throw new RuntimeException("stub"); }

    @Override
    public Context getApplicationContext() { throw new RuntimeException("stub"); }

    @Override
    public ApplicationInfo getApplicationInfo() { throw new RuntimeException("stub"); }

    @Override
    public File getFilesDir() { throw new RuntimeException("stub"); }

    @Override
    public Intent registerReceiver(BroadcastReceiver receiver, IntentFilter filter) { throw new RuntimeException("stub"); }
}
