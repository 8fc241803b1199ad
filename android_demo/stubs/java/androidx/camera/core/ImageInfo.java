// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.camera.core;

public interface ImageInfo {
    int getRotationDegrees();
}
