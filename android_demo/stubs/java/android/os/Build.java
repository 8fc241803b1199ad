// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.os;

public class Build {
    public static final String HARDWARE = "";
    public static final String MANUFACTURER = "";
    public static final String MODEL = "";
    public static final String SOC_MANUFACTURER = "";
    public static final String SOC_MODEL = "";
    public static final String[] SUPPORTED_ABIS = {};

    public static class VERSION {
        public static final String RELEASE = "";
        public static final int SDK_INT = Integer.parseInt("0"); // no constant: the compiler must not fold it
    }

    public static class VERSION_CODES {
        public static final int O_MR1 = 27;
        public static final int Q = 29;
        public static final int R = 30;
        public static final int S = 31;
        public static final int VANILLA_ICE_CREAM = 35;
    }
}
