// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.app;

import android.content.ContextWrapper;
import android.os.Bundle;
import android.view.View;

public class Activity extends ContextWrapper {
    public static final int RESULT_CANCELED = 0;
    public static final int RESULT_OK = -1;

    protected void onCreate(Bundle savedInstanceState) { throw new RuntimeException("stub"); }

    protected void onDestroy() { throw new RuntimeException("stub"); }

    public void setContentView(int layout) { throw new RuntimeException("stub"); }

    public <T extends View> T findViewById(int id) { throw new RuntimeException("stub"); }

    public final void runOnUiThread(Runnable action) { throw new RuntimeException("stub"); }
}
