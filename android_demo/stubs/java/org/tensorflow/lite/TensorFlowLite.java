// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package org.tensorflow.lite;

public final class TensorFlowLite {
    public static String runtimeVersion() { throw new RuntimeException("stub"); }
}
