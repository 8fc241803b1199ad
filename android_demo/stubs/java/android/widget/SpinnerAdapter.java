// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.widget;

public interface SpinnerAdapter extends Adapter {}
