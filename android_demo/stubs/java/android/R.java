// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android;

public final class R {
    public static final class layout {
        public static final int simple_spinner_item = 17367048;
    }
}
