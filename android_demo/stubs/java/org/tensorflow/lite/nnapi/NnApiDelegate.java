// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package org.tensorflow.lite.nnapi;

import org.tensorflow.lite.Delegate;

public class NnApiDelegate implements Delegate {
    public static final class Options {
        public Options setUseNnapiCpu(boolean enable) { throw new RuntimeException("stub"); }
    }

    public NnApiDelegate(Options options) { throw new RuntimeException("stub"); }

    @Override
    public void close() { throw new RuntimeException("stub"); }
}
