// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.activity.result;

public interface ActivityResultCallback<O> {
    void onActivityResult(O result);
}
