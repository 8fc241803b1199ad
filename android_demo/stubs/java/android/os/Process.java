// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.os;

public class Process {
    public static final int THREAD_PRIORITY_URGENT_DISPLAY = -8;

    public static final int myPid() { throw new RuntimeException("stub"); }

    public static final void setThreadPriority(int priority) { throw new RuntimeException("stub"); }
}
