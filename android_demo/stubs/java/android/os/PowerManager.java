// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.os;

public final class PowerManager {
    public int getCurrentThermalStatus() { throw new RuntimeException("stub"); }

    public float getThermalHeadroom(int forecastSeconds) { throw new RuntimeException("stub"); }

    public boolean isPowerSaveMode() { throw new RuntimeException("stub"); }
}
