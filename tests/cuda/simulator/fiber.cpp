#include "fiber.h"

// By the System V convention a function keeps rbx, rbp and r12 to r15.
asm(R"(
.text
.globl convkern_switch_stack
.type convkern_switch_stack, @function
convkern_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size convkern_switch_stack, . - convkern_switch_stack
)");
