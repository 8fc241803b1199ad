// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android;

public final class Manifest {
    public static final class permission {
        public static final String CAMERA = "android.permission.CAMERA";
    }
}
