// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.util;

public final class Log {
    public static int i(String tag, String message) { throw new RuntimeException("stub"); }
}
