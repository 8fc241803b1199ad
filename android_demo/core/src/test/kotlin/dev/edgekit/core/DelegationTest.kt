package dev.edgekit.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Test

class DelegationTest {
    private fun line(taken: Int, nodes: Int, delegate: String) =
        "I tflite  : Replacing $taken out of $nodes node(s) with delegate ($delegate) node, yielding 1 partitions\n"

    @Test
    fun aWholeGraphIsConfirmed() {
        val cases =
            mapOf("gpu" to listOf("TfLiteGpuDelegateV2", "LITERT_CL"), "npu" to listOf("DispatchDelegate")) +
                mapOf("nnapi" to listOf("TfLiteNnapiDelegate"))
        for ((delegate, names) in cases) {
            for (name in names) {
                assertEquals(Delegation(name, 31, 31), Delegation.confirm("x\n" + line(31, 31, name) + "y", delegate))
            }
        }
    }

    @Test
    fun aPartIsRefused() {
        val log = line(30, 31, "TfLiteGpuDelegateV2") + line(1, 2, "TfLiteXNNPackDelegate")
        val refusal = assertThrows(DelegateRefused::class.java) { Delegation.confirm(log, "gpu") }
        assertEquals("gpu takes 30 of 31 nodes of this model", refusal.message)
    }

    @Test
    fun aFallbackToTheCpuIsRefused() {
        val log = line(31, 31, "TfLiteXNNPackDelegate")
        val refusal = assertThrows(DelegateRefused::class.java) { Delegation.confirm(log, "npu") }
        assertEquals("not npu but TfLiteXNNPackDelegate took the nodes of this model", refusal.message)
    }

    @Test
    fun aSilentLogConfirmsNothing() {
        assertNull(Delegation.confirm("", "gpu"))
        assertNull(Delegation.confirm("Replacing 5 node(s) with delegate (TfLiteNnapiDelegate)", "nnapi"))
    }

    @Test
    fun everySubgraphCounts() {
        val log = line(3, 4, "LITERT_CL") + line(9, 9, "LITERT_CL")
        assertThrows(DelegateRefused::class.java) { Delegation.confirm(log, "gpu") }
    }
}
