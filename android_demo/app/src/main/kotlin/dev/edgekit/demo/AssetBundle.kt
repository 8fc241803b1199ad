package dev.edgekit.demo

import android.content.Context
import dev.edgekit.core.Manifest
import java.io.File
import java.io.FileNotFoundException

/** The bundle that was built into the app. */
object AssetBundle {
    private const val MANIFEST = "manifest.json"

    /** Copies the bundle into the app's own files, where a runtime can map it; null when there is none. */
    fun unpack(context: Context): File? {
        val root = File(context.filesDir, "bundle")
        root.deleteRecursively()
        try {
            copy(context, MANIFEST, root)
        } catch (_: FileNotFoundException) {
            return null
        }
        copy(context, Manifest.read(root).model.path, root)
        return root
    }

    private fun copy(context: Context, name: String, root: File) {
        val target = File(root, name)
        context.assets.open(name).use { from ->
            target.parentFile?.mkdirs()
            target.outputStream().use(from::copyTo)
        }
    }
}
