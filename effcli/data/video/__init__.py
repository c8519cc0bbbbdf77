"""Videos as two or more tasks read them; needs PyAV."""
