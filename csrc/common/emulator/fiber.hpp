// Fibers: stacks that a scheduler enters and that come back to it. Known to AddressSanitizer.
#pragma once

#include <stddef.h>

namespace expunge::emulator {

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;      // lowest usable address; a page below it faults
  void* fake_stack = nullptr;  // AddressSanitizer's
};

constexpr size_t kStackBytes = 256 * 1024;

// Maps a stack; false if there is no memory.
bool allocate_stack(Fiber* fiber);

// Makes the fiber start entry() when it is entered next. entry() must leave by leave_for_good(), never return.
void prepare(Fiber* fiber, void (*entry)());

void enter(Fiber* fiber);           // from the scheduler
void leave(Fiber* fiber);           // from the fiber: back to the scheduler, to be entered again
void leave_for_good(Fiber* fiber);  // the same, never to be entered again
void started(Fiber* fiber);         // first thing on a fresh fiber

}  // namespace expunge::emulator
