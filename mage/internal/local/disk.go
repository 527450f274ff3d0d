package local

// Free returns the bytes that may still be written below the state directory.
func (s *State) Free() uint64 { return freeSpace(s.dir) }
