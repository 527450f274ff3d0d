package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// The picture's measures, in pixels.
const (
	label   = 170 // the room for names, left
	width   = 360 // the room for bars
	right   = 100 // the room for numbers
	line    = 22
	top     = 46
	nearest = 0.001 // the left end of the scale, which is logarithmic
	most    = 10.0  // its right end
)

// plot draws each row that was measured as a bar: ours as a part of theirs. A tick shows what is claimed.
func plot(rows []row) string {
	var bars strings.Builder
	n := 0
	for _, r := range rows {
		if r.measured {
			bar(&bars, r, top+n*line)
			n++
		}
	}
	height := top + n*line + 10
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img">`+"\n", label+width+right, height)
	b.WriteString("<title>What ours takes, as a part of what the peer takes; shorter is better</title>\n" +
		"<style>text{fill:#222}.quiet{fill:#666}.bar{fill:#2a7}.over{fill:#c52}.axis{stroke:#999}.claim{stroke:#222;stroke-width:2}" +
		"@media(prefers-color-scheme:dark){text{fill:#ddd}.quiet{fill:#aaa}.axis{stroke:#777}.claim{stroke:#ddd}}</style>\n")
	for _, mark := range []float64{0.001, 0.01, 0.1, 1, 10} {
		fmt.Fprintf(&b, `<line class="axis" x1="%[1]d" x2="%[1]d" y1="%[2]d" y2="%[3]d"/><text class="quiet" x="%[1]d" y="%[4]d" text-anchor="middle">%[5]v</text>`+"\n",
			across(mark), top-8, height-10, top-14, mark)
	}
	fmt.Fprintf(&b, `<text class="quiet" x="8" y="16">ours ÷ theirs, on a logarithmic scale; shorter is better; the tick is what is claimed</text>`+"\n")
	return b.String() + bars.String() + "</svg>\n"
}

func bar(b *strings.Builder, r row, y int) {
	class := "bar"
	if !r.holds() {
		class = "over"
	}
	end := across(r.part())
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, label-8, y+14, escaped(r.id))
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d"/>`, class, label, y+3, max(end-label, 2), line-8)
	if r.most > 0 {
		fmt.Fprintf(b, `<line class="claim" x1="%[1]d" x2="%[1]d" y1="%[2]d" y2="%[3]d"/>`, across(r.most), y, y+line-4)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d">%s</text>`+"\n", label+width+8, y+14, figures(r.part()))
}

// across is where a ratio lies on the scale.
func across(part float64) int {
	part = min(max(part, nearest), most)
	return label + int(math.Round(width*math.Log10(part/nearest)/math.Log10(most/nearest)))
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a builder takes everything
	return b.String()
}
