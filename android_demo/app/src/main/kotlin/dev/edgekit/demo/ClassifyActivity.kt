package dev.edgekit.demo

import android.Manifest as Permissions
import android.content.pm.PackageManager
import android.net.Uri
import android.os.Bundle
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.ImageView
import android.widget.Spinner
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.Preview
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.core.content.ContextCompat
import dev.edgekit.core.Classification
import dev.edgekit.core.Classifier
import dev.edgekit.core.Clock
import dev.edgekit.core.Image
import dev.edgekit.core.Manifest
import dev.edgekit.core.RunnerFactory
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors

/** Classifies a picture or the camera's frames, and shows labels, latency and delegate. */
class ClassifyActivity : ComponentActivity() {
    /** The model belongs to this thread: it is opened, run and closed there. */
    private val worker: ExecutorService = Executors.newSingleThreadExecutor()
    private val factory: RunnerFactory by lazy { runnerFactory(applicationContext) }
    private var classifier: Classifier? = null

    private lateinit var result: TextView
    private lateinit var picked: ImageView
    private lateinit var preview: PreviewView

    private val pickPicture =
        registerForActivityResult(ActivityResultContracts.GetContent()) { uri: Uri? -> uri?.let(::classifyPicture) }

    private val askForCamera =
        registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted: Boolean ->
            if (granted) startCamera() else result.setText(R.string.no_camera)
        }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.classify)
        result = findViewById(R.id.result)
        picked = findViewById(R.id.picked)
        preview = findViewById(R.id.preview)
        findViewById<Button>(R.id.picture).setOnClickListener { pickPicture.launch("image/*") }
        findViewById<Button>(R.id.camera).setOnClickListener {
            val permission = Permissions.permission.CAMERA
            val granted = ContextCompat.checkSelfPermission(this, permission) == PackageManager.PERMISSION_GRANTED
            if (granted) startCamera() else askForCamera.launch(permission)
        }
        val delegates = findViewById<Spinner>(R.id.delegate)
        delegates.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_item, factory.delegates)
        delegates.onItemSelectedListener =
            object : AdapterView.OnItemSelectedListener {
                override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) =
                    openModel(factory.delegates[position])

                override fun onNothingSelected(parent: AdapterView<*>?) = Unit
            }
    }

    override fun onDestroy() {
        worker.execute { classifier?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun openModel(delegate: String) {
        result.setText(R.string.loading)
        onWorker {
            classifier?.close()
            classifier = null
            val root = AssetBundle.unpack(applicationContext)
            if (root == null) {
                say(getString(R.string.no_bundle))
            } else {
                val manifest = Manifest.read(root)
                val runner = factory.open(manifest, delegate, manifest.threads)
                classifier = Classifier(manifest, runner, Clock(System::nanoTime))
                say("${manifest.name}, ${manifest.precision}: ${runner.facts.delegate}")
            }
        }
    }

    private fun classifyPicture(uri: Uri) {
        ProcessCameraProvider.getInstance(this).let { it.addListener({ it.get().unbindAll() }, mainExecutor()) }
        preview.visibility = View.GONE
        picked.visibility = View.VISIBLE
        picked.setImageURI(uri)
        onWorker { classify(readPicture(contentResolver, uri)) }
    }

    private fun startCamera() {
        picked.visibility = View.GONE
        preview.visibility = View.VISIBLE
        val provider = ProcessCameraProvider.getInstance(this)
        provider.addListener({ bindCamera(provider.get()) }, mainExecutor())
    }

    private fun bindCamera(provider: ProcessCameraProvider) {
        val shown = Preview.Builder().build()
        shown.setSurfaceProvider(preview.surfaceProvider)
        val analysis =
            ImageAnalysis.Builder()
                .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
                .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
                .build()
        analysis.setAnalyzer(worker) { frame -> guarded { frame.use { classify(it.toImage()) } } }
        provider.unbindAll()
        provider.bindToLifecycle(this, CameraSelector.DEFAULT_BACK_CAMERA, shown, analysis)
    }

    private fun classify(picture: Image) {
        val found = classifier?.classify(picture) ?: return
        say(describe(found))
    }

    private fun describe(found: Classification): String {
        val classes = found.top.map { getString(R.string.class_line, it.label, it.score) }
        val facts = found.facts
        val line = getString(R.string.runtime_line, found.latencyMs, facts.delegate, facts.name, facts.version)
        return (classes + line + facts.warnings).joinToString("\n")
    }

    private fun onWorker(work: () -> Unit) = worker.execute { guarded(work) }

    /** Whatever goes wrong is shown: a refused delegate, a damaged bundle, a library that does not load. */
    private fun guarded(work: () -> Unit) {
        try {
            work()
        } catch (problem: Exception) {
            say(problem.message ?: problem.toString())
        } catch (missing: LinkageError) {
            say(missing.toString())
        }
    }

    private fun say(text: String) = runOnUiThread { result.text = text }

    private fun mainExecutor() = ContextCompat.getMainExecutor(this)
}
