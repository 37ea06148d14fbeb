"""The benchmarks, one file each: what is asked, and what the answers are worth. Each names itself."""
