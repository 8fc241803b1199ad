/* ekmarks: the two HINT instructions that bracket a measured run, for programs that are not compiled.
 *
 * python_run.py calls these around each measured run; the instruction counter (ekcount.c) recognises the
 * instructions, which every core executes as NOP.
 */
void begin(void) {
    __asm__ volatile("hint #112" ::: "memory");
}

void end(void) {
    __asm__ volatile("hint #113" ::: "memory");
}
