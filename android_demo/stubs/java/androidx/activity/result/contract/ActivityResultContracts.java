// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.activity.result.contract;

import android.net.Uri;

public final class ActivityResultContracts {
    public static class GetContent extends ActivityResultContract<String, Uri> {}

    public static final class RequestPermission extends ActivityResultContract<String, Boolean> {}
}
