// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/packaging/holdfast"
)

const unitName = "holdfast-upgrade.service"

func packaged(t *testing.T, name string) string {
	t.Helper()
	text, err := holdfast.Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The files that are installed are about the names that the service has.
func TestPackagedFiles(t *testing.T) {
	for name, lines := range map[string][]string{
		"org.holdfast.Upgrade1.service": {"Name=" + Name, "SystemdService=" + unitName, "User=root"},
		unitName:                        {"BusName=" + Name, "ExecStart=/usr/bin/holdfast serve", "Type=notify"},
		"org.holdfast.Upgrade1.conf": {
			`<allow own="` + Name + `"/>`, `<allow send_destination="` + Name + `" send_interface="` + Interface + `"/>`,
		},
		"deploy.pkla.example": {"Action=" + actionRollout},
	} {
		text := packaged(t, name)
		for _, line := range lines {
			if !slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == line }) {
				t.Errorf("%s has no line %s", name, line)
			}
		}
	}
	var policy struct {
		Actions []struct {
			ID          string `xml:"id,attr"`
			Description string `xml:"description"`
			Message     string `xml:"message"`
			Any         string `xml:"defaults>allow_any"`
			Inactive    string `xml:"defaults>allow_inactive"`
			Active      string `xml:"defaults>allow_active"`
		} `xml:"action"`
	}
	if err := xml.Unmarshal([]byte(packaged(t, "org.holdfast.upgrade1.policy")), &policy); err != nil {
		t.Fatal(err)
	}
	want := []string{actionRollout, actionRollback, actionFreeze}
	for _, a := range policy.Actions {
		if !slices.Contains(want, a.ID) {
			t.Errorf("action %s is asked for by nothing", a.ID)
		}
		want = slices.DeleteFunc(want, func(id string) bool { return id == a.ID })
		if a.Description == "" || a.Message == "" {
			t.Errorf("action %s: %+v", a.ID, a)
		}
		for _, who := range []string{a.Any, a.Inactive, a.Active} {
			if who != "auth_admin" && who != "auth_admin_keep" {
				t.Errorf("action %s lets %q do it", a.ID, who)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("the policy lacks %q", want)
	}
}

// systemd reads the unit without a word of complaint.
func TestPackagedUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Geteuid() == 0 {
			t.Fatalf("systemd-analyze is needed: sh .ci/install: %v", err)
		}
		t.Skipf("systemd-analyze is not here and only root can install it: %v", err)
	}
	file := filepath.Join(t.TempDir(), unitName)
	text := strings.ReplaceAll(packaged(t, unitName), "/usr/bin/holdfast serve", "/usr/bin/true") // it is looked for
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", file)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=info", "SYSTEMD_COLORS=0")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), unitName) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
