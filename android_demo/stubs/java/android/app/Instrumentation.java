// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.app;

import android.content.Context;
import android.os.Bundle;

public class Instrumentation {
    public void onCreate(Bundle arguments) { throw new RuntimeException("stub"); }

    public void start() { throw new RuntimeException("stub"); }

    public void onStart() { throw new RuntimeException("stub"); }

    public Context getTargetContext() { throw new RuntimeException("stub"); }

    public void finish(int resultCode, Bundle results) { throw new RuntimeException("stub"); }
}
