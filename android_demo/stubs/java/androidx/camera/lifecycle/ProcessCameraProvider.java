// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.camera.lifecycle;

import android.content.Context;
import androidx.camera.core.Camera;
import androidx.camera.core.CameraSelector;
import androidx.camera.core.UseCase;
import androidx.lifecycle.LifecycleOwner;
import com.google.common.util.concurrent.ListenableFuture;

public final class ProcessCameraProvider {
    public static ListenableFuture<ProcessCameraProvider> getInstance(Context context) { throw new RuntimeException("stub"); }

    public Camera bindToLifecycle(LifecycleOwner owner, CameraSelector selector, UseCase... cases) { throw new RuntimeException("stub"); }

    public void unbindAll() { throw new RuntimeException("stub"); }
}
