// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.content;

public class Intent {
    public static final String ACTION_BATTERY_CHANGED = "android.intent.action.BATTERY_CHANGED";

    public int getIntExtra(String name, int otherwise) { throw new RuntimeException("stub"); }
}
