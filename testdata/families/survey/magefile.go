//go:build mage

// The release of the survey family, which another module than the library's makes.
package main

import (
	//mage:import
	_ "github.com/containai/containai/mage"
)
