// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.content;

import android.content.pm.ApplicationInfo;
import android.content.res.AssetManager;
import java.io.File;

public abstract class Context {
    public abstract AssetManager getAssets();

    public abstract ContentResolver getContentResolver();

    public abstract Context getApplicationContext();

    public abstract ApplicationInfo getApplicationInfo();

    public abstract File getFilesDir();

    public abstract Intent registerReceiver(BroadcastReceiver receiver, IntentFilter filter);

    public final <T> T getSystemService(Class<T> service) { throw new RuntimeException("stub"); }

    public final String getString(int id) { throw new RuntimeException("stub"); }

    public final String getString(int id, Object... arguments) { throw new RuntimeException("stub"); }
}
