// Command argo asks Argo CD's own code about resources: their health, which actions they offer, and what an action makes of them.
//
// The argument is a file with the ConfigMap argocd-cm. Each line on standard input is {"object": …, "action": …}, the action left out
// where none is to be run; each line on standard output is the answer.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"

	appv1 "github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/argo-cd/v3/util/settings"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

const (
	namespace = "argocd"
	// maxLine bounds a question: etcd takes no larger resource.
	maxLine = 4 << 20
)

type question struct {
	Object json.RawMessage `json:"object"`
	Action string          `json:"action"`
}

type answer struct {
	Health  any                    `json:"health,omitempty"`
	Actions []appv1.ResourceAction `json:"actions,omitempty"`
	Result  []map[string]any       `json:"result,omitempty"`
	Error   string                 `json:"error,omitempty"`
}

// overrides reads the ConfigMap as Argo CD's components do, with a clientset that holds nothing else.
func overrides(path string) (map[string]appv1.ResourceOverride, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config := &corev1.ConfigMap{}
	if err := yaml.Unmarshal(text, config); err != nil {
		return nil, err
	}
	config.Namespace = namespace
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "argocd-secret", Namespace: namespace, Labels: config.Labels},
		Data:       map[string][]byte{"admin.password": []byte("none"), "server.secretkey": []byte("none")},
	}
	return settings.NewSettingsManager(context.Background(), fake.NewClientset(config, secret), namespace).GetResourceOverrides()
}

func ask(vm lua.VM, asked question) (answer, error) {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(asked.Object); err != nil {
		return answer{}, err
	}
	found := answer{}
	script, openLibraries, err := vm.GetHealthScript(object)
	if err != nil {
		return answer{}, err
	}
	vm.UseOpenLibs = openLibraries
	if script != "" {
		if found.Health, err = vm.ExecuteHealthLua(object, script); err != nil {
			return answer{}, err
		}
	}
	discovery, err := vm.GetResourceActionDiscovery(object)
	if err != nil {
		return answer{}, err
	}
	if len(discovery) > 0 {
		if found.Actions, err = vm.ExecuteResourceActionDiscovery(object, discovery); err != nil {
			return answer{}, err
		}
	}
	if asked.Action == "" {
		return found, nil
	}
	action, err := vm.GetResourceAction(object, asked.Action)
	if err != nil {
		return answer{}, err
	}
	impacted, err := vm.ExecuteResourceAction(object, action.ActionLua, nil)
	if err != nil {
		return answer{}, err
	}
	for _, one := range impacted {
		found.Result = append(found.Result, one.UnstructuredObj.Object)
	}
	return found, nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: argo CONFIGMAP")
	}
	configured, err := overrides(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	vm := lua.VM{ResourceOverrides: configured}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<16), maxLine)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		asked, given := question{}, answer{}
		err := json.Unmarshal(lines.Bytes(), &asked)
		if err == nil {
			given, err = ask(vm, asked)
		}
		if err != nil {
			given = answer{Error: err.Error()}
		}
		if err := answers.Encode(given); err != nil {
			log.Fatal(err)
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}
