// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.camera.core;

public final class Preview extends UseCase {
    public interface SurfaceProvider {}

    public void setSurfaceProvider(SurfaceProvider provider) { throw new RuntimeException("stub"); }

    public static final class Builder {
        public Preview build() { throw new RuntimeException("stub"); }
    }
}
