plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    jvmToolchain(libs.versions.jvmTarget.get().toInt())
}

dependencies {
    compileOnly(libs.json) // part of Android
    testImplementation(libs.json)
    testImplementation(libs.jna)
    testImplementation(libs.junit)
}

// The tests on golden vectors, real bundles and real inference need files that edgekit makes:
// ./gradlew :core:test -Pedgekit.vectors=vectors.json ...; without them they are skipped.
tasks.test {
    listOf(
        "edgekit.vectors",
        "edgekit.litert",
        "edgekit.litert.version",
        "edgekit.bundle.int8",
        "edgekit.bundle.gpu",
        "edgekit.bundle.nnapi",
        "edgekit.results",
        "edgekit.required"
    ).forEach { name -> providers.gradleProperty(name).orNull?.let { systemProperty(name, it) } }
}
