// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package org.pytorch.executorch;

public class EValue {
    public static EValue from(Tensor tensor) { throw new RuntimeException("stub"); }

    public Tensor toTensor() { throw new RuntimeException("stub"); }
}
