// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.core.content;

import android.content.Context;
import java.util.concurrent.Executor;

public class ContextCompat {
    public static int checkSelfPermission(Context context, String permission) { throw new RuntimeException("stub"); }

    public static Executor getMainExecutor(Context context) { throw new RuntimeException("stub"); }
}
