package tools

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Cached returns the folder of that key in the user's cache. When it is not
// there, fill makes its content in an empty folder first; while it does, other
// processes that want the same key wait. A failed or interrupted fill leaves
// nothing behind under the key.
func Cached(ctx context.Context, key string, fill func(dir string) error) (string, error) {
	dir, err := cachePath(key)
	if err != nil {
		return "", err
	}
	return cachedIn(ctx, dir, fill)
}

// Find returns the folders of the cache whose keys match the pattern, see
// path.Match, in their order.
func Find(pattern string) ([]string, error) {
	path, err := cachePath(pattern)
	if err != nil {
		return nil, err
	}
	return filepath.Glob(path)
}

func cachePath(key string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(base, "harmony-fleet", key), nil
}

func cachedIn(ctx context.Context, dir string, fill func(dir string) error) (string, error) {
	if exists(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("making the cache folder: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("locking %s: %w", dir, err)
	}
	defer unlock()
	if exists(dir) { // made while this process waited
		return dir, nil
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil { // of a process that was killed
		return "", fmt.Errorf("clearing %s: %w", partial, err)
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return "", fmt.Errorf("making %s: %w", partial, err)
	}
	if err := fill(partial); err != nil {
		return "", errors.Join(err, os.RemoveAll(partial))
	}
	if err := os.Rename(partial, dir); err != nil {
		return "", fmt.Errorf("publishing %s: %w", dir, err)
	}
	return dir, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lock waits for the file lock, which the kernel releases with the process.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
