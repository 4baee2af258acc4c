//go:build !linux

package intercept

import (
	"errors"
	"fmt"
)

var errLinux = fmt.Errorf("interception needs Linux: %w", errors.ErrUnsupported)

// Possible returns why this process cannot set rules.
func Possible() error { return errLinux }

// List finds no tables.
func List(string) ([]string, error) { return nil, errLinux }

// Put fails.
func (r Rules) Put() error { return errLinux }

// Remove fails.
func Remove(string) error { return errLinux }

// RemoveAll fails.
func RemoveAll(string, func(string) bool) ([]string, error) { return nil, errLinux }
