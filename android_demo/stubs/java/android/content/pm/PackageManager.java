// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.content.pm;

public abstract class PackageManager {
    public static final int PERMISSION_GRANTED = 0;
}
