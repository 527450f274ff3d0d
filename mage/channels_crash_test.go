package mage_test

import (
	"testing"
	"time"
	"os"
)

func TestTrial(t *testing.T) {
	began := time.Now()
	w := newWorld(t)
	t.Logf("world: %v", time.Since(began))
	os.RemoveAll("/tmp/crashw/world")
	began = time.Now()
	c := w.copy(t)
	t.Logf("copy: %v", time.Since(began))
	s := c.open(t)
	w.shared.front.show(s)
	for _, args := range [][]string{{"ops:promote", "-to=dev", "-out=plan.json"}, {"ops:apply", "plan.json"}, {"ops:apply", "plan.json"}, {"ops:rollback", "-channel=dev", "-reason=x", "-out=rb.json"}, {"ops:apply", "rb.json"}, {"release:nightly"}, {"release:nightly"}, {"ops:reconcile", "-apply"}, {"ops:history"}} {
		began = time.Now()
		out, code := c.run(t, nil, args...)
		t.Logf("%v: %d %v\n%s", args, code, time.Since(began), out)
	}
	s.Close()
}
