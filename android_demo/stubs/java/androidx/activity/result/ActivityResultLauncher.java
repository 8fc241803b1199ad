// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.activity.result;

public abstract class ActivityResultLauncher<I> {
    public abstract void launch(I input);
}
