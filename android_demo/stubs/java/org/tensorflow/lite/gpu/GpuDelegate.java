// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package org.tensorflow.lite.gpu;

import org.tensorflow.lite.Delegate;

public class GpuDelegate implements Delegate {
    @Override
    public void close() { throw new RuntimeException("stub"); }
}
