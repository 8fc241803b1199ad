plugins {
    alias(libs.plugins.android.application) // brings Kotlin with it
}

android {
    namespace = "dev.edgekit.demo"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = "dev.edgekit.demo"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = "0.1.0"
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }

    buildFeatures { buildConfig = true }

    // One runtime each: their classes and native libraries clash. All have the same application id, so that
    // one replaces the other on the phone.
    flavorDimensions += "runtime"
    productFlavors {
        create("litert") {
            dimension = "runtime"
            isDefault = true
            buildConfigField("String", "RUNTIME_VERSION", "\"${libs.versions.litert.get()}\"")
        }
        create("tflite1") {
            dimension = "runtime"
            buildConfigField("String", "RUNTIME_VERSION", "\"${libs.versions.tflite1.get()}\"")
        }
        create("executorch") {
            dimension = "runtime"
            buildConfigField("String", "RUNTIME_VERSION", "\"${libs.versions.executorch.get()}\"")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.toVersion(libs.versions.jvmTarget.get())
        targetCompatibility = JavaVersion.toVersion(libs.versions.jvmTarget.get())
    }

    // Runtimes map model files into memory, which compressed files do not allow.
    androidResources { noCompress += listOf("tflite", "pte") }

    // ./gradlew -Pedgekit.bundle=/path/to/bundle ...: the bundle that the app shows.
    providers.gradleProperty("edgekit.bundle").orNull?.let { bundle ->
        sourceSets.getByName("main").assets.srcDir(bundle)
    }
}

dependencies {
    implementation(project(":core"))
    implementation(libs.activity)
    implementation(libs.camera.camera2)
    implementation(libs.camera.lifecycle)
    implementation(libs.camera.view)

    "litertImplementation"(libs.litert)
    "litertImplementation"(libs.litert.gpu)
    "tflite1Implementation"(libs.tflite1)
    "tflite1Implementation"(libs.tflite1.gpu)
    "tflite1Implementation"(libs.tflite1.gpu.api)
    "executorchImplementation"(libs.executorch)
}
