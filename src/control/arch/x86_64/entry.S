// SPDX-License-Identifier: MIT
// entry.S (x86_64) - where the control thread begins, how it is cloned, a thread's report,
// and the continuation of an interrupted timed call.
// Invariant: cr_resume_entry leaves every register but rax, rcx and r11 as the program had it.
// Context: N, S.
//
// cr_clone_control(flags, stack_top, parent_tid): rdi rsi rdx as clone(2); returns in the parent.
// cr_control_entry: rsp = top of the control stack, rdi = 1 after a restore. Also jumped to by the
//   restorer.
	.text
	.globl cr_clone_control, cr_control_entry, cr_resume_entry, cr_resume_end, cr_report_entry
	.globl cr_calls_entry, cr_clone_waiting, cr_join_entry
	.hidden cr_clone_control, cr_control_entry, cr_resume_entry, cr_resume_end, cr_report_entry
	.hidden cr_calls_entry, cr_clone_waiting, cr_join_entry
	.type cr_clone_control, @function
cr_clone_control:
	mov	$56, %eax		// clone
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	syscall
	test	%rax, %rax
	jnz	1f
	xor	%edi, %edi
	jmp	cr_control_entry
1:	ret

	.type cr_control_entry, @function
cr_control_entry:
	xor	%ebp, %ebp		// end of backtraces
	and	$-16, %rsp
	cld
	call	cr_control_main
	ud2

// rdi = ThreadReport*, rsi = ucontext of the interrupted thread. When the report is done the thread
// waits; the agent, which traces it, stops it there and sets its registers. Should the agent die, the
// wait ends by itself and the thread takes its registers from the ucontext.
	.type cr_report_entry, @function
cr_report_entry:
	xor	%ebp, %ebp
	and	$-16, %rsp
	cld
	mov	%rsi, %rbx
	call	cr_report_thread
	mov	%rbx, %rsp
	mov	$15, %eax		// rt_sigreturn
	syscall
	ud2

// rdi = State*, rdx = top of the control stack, rsi = ucontext as above: makes the control thread of
// this process, and waits like a report.
	.type cr_join_entry, @function
cr_join_entry:
	xor	%ebp, %ebp
	and	$-16, %rsp
	cld
	mov	%rsi, %rbx
	mov	%rdx, %rsi
	call	cr_join_thread
	mov	%rbx, %rsp
	mov	$15, %eax		// rt_sigreturn
	syscall
	ud2

// rdi = CallList*: a thread that the agent holds makes system calls for it (calls_stopped.cc).
	.type cr_calls_entry, @function
cr_calls_entry:
	xor	%ebp, %ebp
	and	$-16, %rsp
	cld
	call	cr_thread_calls
	ud2

// cr_clone_waiting(clone_args, bytes): clone3 without a stack. The new thread, every signal blocked,
// uses none: it waits for the agent, which sets its registers.
	.type cr_clone_waiting, @function
cr_clone_waiting:
	mov	$435, %eax		// clone3
	syscall
	test	%rax, %rax
	jz	1f
	ret
1:	mov	$34, %eax		// pause
	syscall
	jmp	1b

// rsp = ResumeFrame (src/agent/timed_calls.h):
//   0 mode  8 nr  16..56 arguments  64..104 the program's rdi rsi rdx r10 r8 r9
//   112 rsp 120 rip 128 timespec 144 pollfd
// The unwind table says where the program's registers are, so that backtraces and the unwinding of
// a cancelled thread go through. Bytes: DW_OP_breg7 (rsp) with its offset, DW_OP_deref for the CFA.
	.macro	saved_at reg, low		// DW_CFA_expression: reg is at rsp + offset (SLEB128)
	.cfi_escape 0x10, \reg, 3, 0x77, \low, 0
	.endm
	.type cr_resume_entry, @function
cr_resume_entry:
	.cfi_startproc
	.cfi_signal_frame
	.cfi_escape 0x0f, 4, 0x77, 0xf0, 0, 0x06	// the caller's rsp is at rsp + 112
	saved_at 16, 0xf8		// rip 120
	saved_at 5, 0xc0		// rdi 64
	saved_at 4, 0xc8		// rsi 72
	saved_at 1, 0xd0		// rdx 80
	saved_at 10, 0xd8		// r10 88
	saved_at 8, 0xe0		// r8 96
	saved_at 9, 0xe8		// r9 104
	cmpq	$0, 0(%rsp)
	je	1f
	lea	144(%rsp), %rdi		// wait for the socket with the time left ...
	mov	$1, %esi
	lea	128(%rsp), %rdx
	xor	%r10d, %r10d
	mov	$8, %r8d
	mov	$271, %eax		// ppoll
	syscall
	test	%rax, %rax
	js	2f			// EINTR of a handler of the program's own
	jnz	1f
	mov	$-11, %rax		// -EAGAIN: what SO_RCVTIMEO gives
	jmp	2f
1:	mov	8(%rsp), %rax		// ... then make the call
	mov	16(%rsp), %rdi
	mov	24(%rsp), %rsi
	mov	32(%rsp), %rdx
	mov	40(%rsp), %r10
	mov	48(%rsp), %r8
	mov	56(%rsp), %r9
	syscall
2:	mov	64(%rsp), %rdi
	mov	72(%rsp), %rsi
	mov	80(%rsp), %rdx
	mov	88(%rsp), %r10
	mov	96(%rsp), %r8
	mov	104(%rsp), %r9
	mov	120(%rsp), %rcx
	mov	112(%rsp), %rsp
	.cfi_def_cfa rsp, 0
	.cfi_register rip, rcx
	.cfi_same_value rdi
	.cfi_same_value rsi
	.cfi_same_value rdx
	.cfi_same_value r10
	.cfi_same_value r8
	.cfi_same_value r9
	jmp	*%rcx
	.cfi_endproc
cr_resume_end:

	.section .note.GNU-stack,"",@progbits
