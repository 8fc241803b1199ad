// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.lifecycle;

public interface LifecycleOwner {}
