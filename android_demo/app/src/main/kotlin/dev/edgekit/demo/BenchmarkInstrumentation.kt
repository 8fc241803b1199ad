package dev.edgekit.demo

import android.app.Activity
import android.app.Instrumentation
import android.os.Bundle
import android.os.Process
import android.util.Log
import dev.edgekit.core.Benchmark
import dev.edgekit.core.Clock
import dev.edgekit.core.RunConfig
import java.io.File

/**
 * A benchmark without a screen, for `edgekit bench BUNDLE --device adb:SERIAL --via app`:
 *
 *     am instrument -w -r -e run_id ID -e bundle /data/local/tmp/... -e delegate gpu -e threads 4 \
 *         -e warmup 10 -e runs 100 dev.edgekit.demo/.BenchmarkInstrumentation
 *
 * The result lies in files/edgekit/ID/result.json, to be fetched by `run-as`. Instrumentation rather than an
 * Activity: `am instrument -w` waits for its end and reports a crash.
 */
class BenchmarkInstrumentation : Instrumentation() {
    private var extras: Map<String, String?> = emptyMap()

    override fun onCreate(arguments: Bundle?) {
        super.onCreate(arguments)
        extras = arguments?.keySet().orEmpty().associateWith { arguments?.getString(it) }
        start()
    }

    override fun onStart() {
        super.onStart()
        Process.setThreadPriority(Process.THREAD_PRIORITY_URGENT_DISPLAY)
        val context = targetContext
        val benchmark = Benchmark(runnerFactory(context), AndroidDevice(context), Clock(System::nanoTime))
        val result = benchmark.run(extras)
        val report = Bundle()
        report.putString("status", result.getString("status"))
        val runId = RunConfig.runIdOf(extras)
        if (runId == null) {
            report.putString("error", "run_id is missing or not plain")
            finish(Activity.RESULT_CANCELED, report)
            return
        }
        val file = File(context.filesDir, "edgekit/$runId/result.json")
        file.parentFile?.mkdirs()
        file.writeText(result.toString(1))
        Log.i("edgekit", "result of $runId in $file")
        finish(Activity.RESULT_OK, report)
    }
}
