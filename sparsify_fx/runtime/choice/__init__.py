"""Which layers become sparse: what each costs, what moving values between layouts costs, whole models timed."""
