// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.activity.result.contract;

public abstract class ActivityResultContract<I, O> {}
