// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.camera.core;

import java.util.concurrent.Executor;

public final class ImageAnalysis extends UseCase {
    public static final int OUTPUT_IMAGE_FORMAT_RGBA_8888 = 2;
    public static final int STRATEGY_KEEP_ONLY_LATEST = 0;

    public interface Analyzer {
        void analyze(ImageProxy image);
    }

    public void setAnalyzer(Executor executor, Analyzer analyzer) { throw new RuntimeException("stub"); }

    public static final class Builder {
        public Builder setBackpressureStrategy(int strategy) { throw new RuntimeException("stub"); }

        public Builder setOutputImageFormat(int format) { throw new RuntimeException("stub"); }

        public ImageAnalysis build() { throw new RuntimeException("stub"); }
    }
}
