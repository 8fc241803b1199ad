// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.camera.core;

public final class CameraSelector {
    public static final CameraSelector DEFAULT_BACK_CAMERA = new CameraSelector();
}
