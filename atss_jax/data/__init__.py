"""Data sets, transforms and the stream of batches; nothing here touches a device."""
