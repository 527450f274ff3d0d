package report_test

import (
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/containai/containai/mage/report"
)

// TestThePageIsReadableInABrowser opens pages of real releases, and one full of hostile text, as people
// do: on a desktop, on a phone, in the dark. Run with -artifacts it keeps what it saw.
func TestThePageIsReadableInABrowser(t *testing.T) {
	browser := openBrowser(t)
	for name, m := range pages(t) {
		html, err := m.HTML()
		if err != nil {
			t.Fatal(err)
		}
		if limit := 1 << 20; len(html) > limit {
			t.Errorf("%s: the page has %d bytes, at most %d", name, len(html), limit)
		}
		file := filepath.Join(t.TempDir(), "report.html")
		if err := os.WriteFile(file, html, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, look := range looks() {
			t.Run(name+" "+look.name, func(t *testing.T) {
				tab := browser.open(t, file, look)
				if len(tab.complaints) > 0 {
					t.Errorf("the browser complains:\n%s", strings.Join(tab.complaints, "\n"))
				}
				if len(tab.requests) > 0 {
					t.Errorf("the page asks for %v", tab.requests)
				}
				for _, flaw := range tab.flaws(t) {
					t.Error(flaw)
				}
				if flag.Lookup("test.artifacts").Value.String() == "true" {
					tab.keep(t, name+" "+look.name)
				}
			})
		}
	}
}

// TestACommandOfThePageIsCopiedWholeByItsButton clicks the first of the buttons that the script adds.
func TestACommandOfThePageIsCopiedWholeByItsButton(t *testing.T) {
	browser := openBrowser(t)
	html, err := pages(t)["tiny"].HTML()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, html, 0o644); err != nil {
		t.Fatal(err)
	}
	tab := browser.open(t, file, looks()[0])
	got, err := chromedp.Run(tab.ctx, chromedp.Evaluate[string](`(async () => {
		let copied;
		navigator.clipboard.writeText = async (text) => { copied = text };
		const button = document.querySelector(".command button");
		button.click();
		await new Promise((done) => setTimeout(done));
		return copied + " | " + button.textContent;
	})()`, chromedp.EvalAwaitPromise))
	if want := "go tool mage verify:channel dev | copied"; err != nil || got != want {
		t.Errorf("a click copies %q, %v; want %q", got, err, want)
	}
}

// BenchmarkOpenPage opens the real family's page, from the request to the load event.
func BenchmarkOpenPage(b *testing.B) {
	browser := openBrowser(b)
	html, err := pages(b)["containai"].HTML()
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "report.html")
	if err := os.WriteFile(file, html, 0o644); err != nil {
		b.Fatal(err)
	}
	var total float64
	for b.Loop() {
		tab := browser.open(b, file, looks()[0])
		took, err := chromedp.Run(tab.ctx, chromedp.Evaluate[float64](`performance.getEntriesByType("navigation")[0].loadEventEnd`))
		if err != nil {
			b.Fatal(err)
		}
		total += took
	}
	b.ReportMetric(total/float64(b.N), "ms-to-load")
	b.ReportMetric(float64(len(html)), "bytes")
}

// look is how somebody looks at a page.
type look struct {
	name  string
	width int64
	dark  bool
}

func looks() []look {
	return []look{{"desktop", 1440, false}, {"desktop dark", 1440, true}, {"phone", 375, false}, {"phone dark", 375, true}}
}

// pages are models of real releases, as `mage release:dev -json` printed them, and one of hostile text.
func pages(tb testing.TB) map[string]report.Model {
	tb.Helper()
	all := map[string]report.Model{"hostile": hostile()}
	files, err := filepath.Glob("testdata/releases/*.json")
	if err != nil || len(files) < 2 {
		tb.Fatalf("%d recorded releases: %v", len(files), err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		var m report.Model
		dec := json.NewDecoder(f)
		dec.DisallowUnknownFields() // a field that was renamed would be missing on the page
		if err := dec.Decode(&m); err != nil {
			tb.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = m
	}
	return all
}

type browser struct{ ctx context.Context }

// openBrowser starts headless Chromium, or skips where there is none; in CI it must be there.
func openBrowser(tb testing.TB) browser {
	tb.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatal(err)
		}
		tb.Skipf("there is no Chromium: %v", err)
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(program), chromedp.UserDataDir(tb.TempDir())}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's own does not work for root
	}
	limited, stop := context.WithTimeout(context.Background(), time.Minute)
	ctx, _ := chromedp.NewContext(limited, chromedp.WithAllocatorOptions(options...))
	tb.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil { // which waits until the browser is gone
			tb.Log(err)
		}
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		tb.Fatal(err)
	}
	return browser{ctx}
}

// tab is an open page, with what the browser said while it opened.
type tab struct {
	ctx                  context.Context
	mu                   sync.Mutex
	complaints, requests []string
}

func (b browser) open(tb testing.TB, file string, l look) *tab {
	tb.Helper()
	t := &tab{}
	ctx, closeTab := chromedp.NewContext(b.ctx, chromedp.WithListener(t.listen))
	tb.Cleanup(closeTab)
	t.ctx = ctx
	scheme := map[bool]string{true: "dark", false: "light"}[l.dark]
	var options []chromedp.EmulateViewportOption
	if l.width < 500 {
		options = append(options, chromedp.EmulateMobile)
	}
	err := chromedp.Do(ctx,
		chromedp.EmulateViewport(l.width, 900, options...),
		chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			return err
		}),
		chromedp.Navigate("file://"+file),
	)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// listen keeps every message and every request but the one for the page itself.
func (t *tab) listen(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		t.complaints = append(t.complaints, e.Entry.Text)
	case *runtime.EventConsoleAPICalled:
		t.complaints = append(t.complaints, fmt.Sprintf("console.%s", e.Type))
	case *runtime.EventExceptionThrown:
		t.complaints = append(t.complaints, e.ExceptionDetails.Text)
	case *network.EventRequestWillBeSent:
		if e.Type != network.ResourceTypeDocument && !strings.HasPrefix(e.Request.URL, "data:") {
			t.requests = append(t.requests, e.Request.URL)
		}
	}
}

//go:embed testdata/flaws.js
var findFlaws string

// flaws measures the page as it stands: what is wider than the window, too pale or too small to read.
func (t *tab) flaws(tb testing.TB) []string {
	tb.Helper()
	flaws, err := chromedp.Run(t.ctx, chromedp.Evaluate[[]string](findFlaws))
	if err != nil {
		tb.Fatal(err)
	}
	return flaws
}

// keep takes a picture of the whole page, and prints it.
func (t *tab) keep(tb *testing.T, name string) {
	tb.Helper()
	picture, err := chromedp.Run(t.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		tb.Fatal(err)
	}
	printed, err := chromedp.Run(t.ctx, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4)))
	if err != nil {
		tb.Fatal(err)
	}
	if len(printed) == 0 {
		tb.Error("nothing was printed")
	}
	for ending, content := range map[string][]byte{".png": picture, ".pdf": printed} {
		if err := os.WriteFile(filepath.Join(tb.ArtifactDir(), strings.ReplaceAll(name, " ", "-")+ending), content, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}
