// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package org.tensorflow.lite;

import java.io.File;
import java.util.Map;

public final class Interpreter implements AutoCloseable {
    public static class Options {
        public Options setNumThreads(int threads) { throw new RuntimeException("stub"); }

        public Options setUseXNNPACK(boolean use) { throw new RuntimeException("stub"); }

        public Options addDelegate(Delegate delegate) { throw new RuntimeException("stub"); }
    }

    public Interpreter(File model, Options options) { throw new RuntimeException("stub"); }

    public void runForMultipleInputsOutputs(Object[] inputs, Map<Integer, Object> outputs) { throw new RuntimeException("stub"); }

    @Override
    public void close() { throw new RuntimeException("stub"); }
}
