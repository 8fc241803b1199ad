package dev.edgekit.core

/** A class with its score as the model gives it. */
data class Ranked(val label: String, val score: Float)

/** What one picture gave: the highest classes, and the time of the inference alone. */
data class Classification(val top: List<Ranked>, val latencyMs: Double, val facts: RuntimeFacts)

/** Classifies pictures with an open model. */
class Classifier(private val manifest: Manifest, private val runner: ModelRunner, private val clock: Clock) :
    AutoCloseable {
    init {
        if (manifest.task != "classification") throw BadBundle("${manifest.name} is not a classifier")
        if (manifest.inputs.size != 1) throw BadBundle("${manifest.name} takes ${manifest.inputs.size} inputs")
    }

    /** The [count] highest classes of [picture], which is upright. */
    fun classify(picture: Image, count: Int = 3): Classification {
        val input = manifest.inputs.single()
        runner.write(listOf(input.toStored(manifest.preprocessing.prepare(picture, input))))
        val start = clock.nanos()
        runner.invoke()
        val latency = (clock.nanos() - start) / 1e6
        val scores = manifest.outputs.first().toReal(runner.read().first())
        val top = topK(scores, count).map { Ranked(manifest.label(it), scores[it]) }
        return Classification(top, latency, runner.facts)
    }

    override fun close() = runner.close()
}
