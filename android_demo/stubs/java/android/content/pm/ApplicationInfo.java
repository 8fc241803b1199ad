// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.content.pm;

public class ApplicationInfo {
    public String nativeLibraryDir;
}
