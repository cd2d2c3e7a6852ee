"""What each peer computes beside what we compute; tools/bench/agreement.py prints it."""
