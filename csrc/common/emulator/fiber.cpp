#include "common/emulator/fiber.hpp"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define EXPUNGE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EXPUNGE_ASAN 1
#endif
#endif
#if defined(EXPUNGE_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace expunge::emulator {
namespace {

Fiber scheduler;  // the stack everything else runs on
#if defined(EXPUNGE_ASAN)
const void* scheduler_bottom = nullptr;
size_t scheduler_size = 0;
#endif

}  // namespace

#if defined(__x86_64__)

// Callee-saved registers on the old stack, the new stack pointer, the registers found there.
extern "C" void expunge_emulator_switch(void** save, void* to);
__asm__(
    ".text\n.hidden expunge_emulator_switch\n.globl expunge_emulator_switch\n"
    ".type expunge_emulator_switch,@function\n"
    "expunge_emulator_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size expunge_emulator_switch,.-expunge_emulator_switch\n");

void prepare(Fiber* fiber, void (*entry)()) {
  // As after a call: entry() finds a return address (nowhere) at 8 modulo 16.
  void** top = reinterpret_cast<void**>(fiber->stack + kStackBytes) - 1;
  *top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
  fiber->fake_stack = nullptr;
}

static void switch_to(Fiber* from, Fiber* to) { expunge_emulator_switch(&from->stack_pointer, to->stack_pointer); }

#else

void prepare(Fiber* fiber, void (*entry)()) {
  if (fiber->stack_pointer == nullptr) fiber->stack_pointer = new ucontext_t;
  ucontext_t* context = static_cast<ucontext_t*>(fiber->stack_pointer);
  getcontext(context);
  context->uc_stack.ss_sp = fiber->stack;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  fiber->fake_stack = nullptr;
}

static void switch_to(Fiber* from, Fiber* to) {
  if (from->stack_pointer == nullptr) from->stack_pointer = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from->stack_pointer), static_cast<ucontext_t*>(to->stack_pointer));
}

#endif

bool allocate_stack(Fiber* fiber) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  mprotect(memory, page, PROT_NONE);
  fiber->stack = static_cast<char*>(memory) + page;
  return true;
}

void enter(Fiber* fiber) {
#if defined(EXPUNGE_ASAN)
  __sanitizer_start_switch_fiber(&scheduler.fake_stack, fiber->stack, kStackBytes);
#endif
  switch_to(&scheduler, fiber);
#if defined(EXPUNGE_ASAN)
  __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
#endif
}

void started(Fiber* fiber) {
  (void)fiber;
#if defined(EXPUNGE_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
}

void leave(Fiber* fiber) {
#if defined(EXPUNGE_ASAN)
  __sanitizer_start_switch_fiber(&fiber->fake_stack, scheduler_bottom, scheduler_size);
#endif
  switch_to(fiber, &scheduler);
#if defined(EXPUNGE_ASAN)
  __sanitizer_finish_switch_fiber(fiber->fake_stack, &scheduler_bottom, &scheduler_size);
#endif
}

void leave_for_good(Fiber* fiber) {
#if defined(EXPUNGE_ASAN)
  __sanitizer_start_switch_fiber(nullptr, scheduler_bottom, scheduler_size);
#endif
  switch_to(fiber, &scheduler);
}

}  // namespace expunge::emulator
