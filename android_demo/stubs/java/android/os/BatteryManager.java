// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.os;

public class BatteryManager {
    public static final String EXTRA_LEVEL = "level";
    public static final String EXTRA_PLUGGED = "plugged";
    public static final String EXTRA_TEMPERATURE = "temperature";
}
